"""What can go wrong, as types: every message names the argument, its value and what was expected."""


class ConfigError(ValueError):
    """A size, name or share that cannot be: key, value, expected."""


class InvalidExtent(ValueError):
    """An extent that is not live: released twice, stale after a move, or of another arena."""


class NotFitted(ValueError):
    """A predictor was asked before it was trained."""


class DeviceLost(ConnectionError):
    """A request's second device died: it fails with this error."""
