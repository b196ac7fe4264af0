"""Words of the synthetic prompts: instruction templates by the length of answer they ask for, topics, filler.

The order of TEMPLATES is the order of answer length (a word, a sentence, a list, an essay), so that a predictor reading
only the prompt can learn what the twins hold.
"""

TEMPLATES = (
    "Yes or no: is {} common?",
    "Give a synonym for {}.",
    "Is {} good or bad?",
    "Name the category of {}.",
    "Pick the odd word out: {}.",
    "Correct the spelling: {}.",
    "Put {} in lower case.",
    "Fill in: {} is usually ____.",
    "Find the year {} became popular.",
    "Identify the verb: {}.",
    "Rewrite in the past tense: {}.",
    "Translate into French: {}.",
    "Write a headline on {}.",
    "Suggest a name for {}.",
    "Define {} in one sentence.",
    "Write a slogan for {}.",
    "Name three things related to {}.",
    "Create a question about {}.",
    "Edit this on {} for clarity.",
    "State one fact about {}.",
    "Summarize {} in two sentences.",
    "List five advantages of {}.",
    "Describe the purpose of {}.",
    "Explain {} to a child.",
    "Give an everyday example of {}.",
    "Compare {} with an alternative.",
    "Give three tips for working with {}.",
    "Outline the effects of {}.",
    "Discuss how {} has changed over time.",
    "Describe how to begin with {}.",
    "Explain the drawbacks of {}.",
    "Write a product description for {}.",
    "Compose a short poem about {}.",
    "Write an email on {} to a friend.",
    "Draft a dialogue about {}.",
    "Write a complaint about {}.",
    "Plan a week to learn {}.",
    "Tell a short story about {}.",
    "Write a detailed essay on {}.",
    "Write a complete speech about {}.",
)
_KINDS = (
    *("modern", "local", "digital", "rural", "early", "public", "private", "natural", "global", "urban", "cheap"),
    *("renewable", "classical", "seasonal", "personal", "open", "hidden", "future", "simple", "electric"),
)
_THINGS = (
    "music",
    "energy",
    "farming",
    "medicine",
    "transport",
    "banking",
    "cooking",
    "painting",
    "schools",
    "markets",
)
TOPICS = tuple(f"{kind} {thing}" for kind in _KINDS for thing in _THINGS)
MODIFIERS = (
    "",
    " Keep it formal.",
    " Use plain words.",
    " Assume no prior knowledge.",
    " Take the view of an expert.",
    " Use a friendly tone.",
    " Do not repeat yourself.",
    " Mention at least one example.",
    " Write for a general audience.",
    " Add a reason for every point you make.",
)
WORDS = (
    *("the", "river", "town", "people", "market", "often", "season", "house", "water", "bread", "small", "green"),
    *("letter", "school", "winter", "road", "paper", "open", "early", "summer", "garden", "number", "simple", "field"),
    *(
        "music",
        "because",
        "between",
        "person",
        "friend",
        "evening",
        "careful",
        "report",
        "morning",
        "travel",
        "village",
    ),
)
