"""What the predictor may see of a request: the words of its two texts, their lengths, and metadata known on arrival.

`words` and `side` take the instruction and the input and nothing else; answers lie in the same data file and must never
come near. Terms are word 1-3-grams, punctuation marks being words; weights are sublinear TF-IDF of unit length.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

WORD = re.compile(r"\w+|[^\w\s]")
GRAMS = 3
LEAST_DOCUMENTS = 2
MOST_TERMS = 100_000
SIDE = ("log_instruction", "log_input", "has_input", "log_words")


def check(name: str, texts: Sequence[str | None]) -> None:
    """ValueError naming the first text that is no text."""
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{i}] is {text!r}; expected a text")


def terms(instruction: str, input_text: str) -> Counter:
    """How often each 1-, 2- and 3-gram of words stands in the prompt; lower case, the input behind a mark."""
    words = WORD.findall(instruction.lower())
    if input_text:
        words += ["\x00", *WORD.findall(input_text.lower()[:2000])]
    found = Counter(words)
    found.update(map(" ".join, itertools.pairwise(words)))
    found.update(map(" ".join, zip(words, words[1:], words[2:], strict=False)))
    return found


def side(instruction: str, input_text: str) -> tuple[float, float, float, float]:
    """The numbers beside the words, in the order of SIDE."""
    return (
        math.log1p(len(instruction)),
        math.log1p(len(input_text)),
        1.0 if input_text else 0.0,
        math.log1p(instruction.count(" ") + input_text.count(" ")),
    )


class Vocabulary:
    """Terms, their inverse document frequencies, and the sparse matrix of prompts."""

    def __init__(self, index: dict[str, int], idf: np.ndarray):
        self.index, self.idf = index, idf

    @classmethod
    def learn(cls, counted: Iterable[Counter]) -> "Vocabulary":
        """Terms that stand in two prompts or more; where there are too many, the most frequent ones."""
        documents: Counter = Counter()
        n = 0
        for counts in counted:
            documents.update(counts.keys())
            n += 1
        kept = [(term, count) for term, count in documents.items() if count >= LEAST_DOCUMENTS]
        kept.sort(key=lambda item: (-item[1], item[0]))
        kept = kept[:MOST_TERMS]
        idf = np.array([math.log((1 + n) / (1 + count)) + 1 for _, count in kept])
        return cls({term: i for i, (term, _) in enumerate(kept)}, idf)

    def row(self, counts: Counter) -> tuple[list[int], np.ndarray]:
        """Columns and unit-length weights of one prompt."""
        index = self.index
        found = [(index[term], count) for term, count in counts.items() if term in index]
        if not found:
            return [], np.empty(0)
        columns = [column for column, _ in found]
        weights = np.array([1.0 if count == 1 else 1.0 + math.log(count) for _, count in found]) * self.idf[columns]
        return columns, weights / math.sqrt(weights @ weights)

    def matrix(self, counted: Sequence[Counter]):
        """The prompts as a scipy CSR matrix `(n, terms)`."""
        from scipy.sparse import csr_matrix

        rows = [self.row(counts) for counts in counted]
        starts = np.cumsum([0] + [len(columns) for columns, _ in rows])
        columns = np.concatenate([np.asarray(columns, np.int64) for columns, _ in rows])
        weights = np.concatenate([weights for _, weights in rows])
        return csr_matrix((weights, columns, starts), shape=(len(rows), len(self.idf)))
