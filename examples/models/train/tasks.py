"""Generated long-range tasks, as token ids with a loss weight per token.

Owns the text of every task, so that training and the committed evaluation sets are the same language with disjoint seeds:
  lines    "line <word>: REGISTER_CONTENT is <number>" scattered over filler text, then questions about some of them
  dense    the same without filler: the first thing to learn
  echo     lines, then the same lines in another order: the bridge from induction to questions
  repeat   random tokens, then the same tokens again: what makes induction heads form at all
  bind     keys and values of random tokens with a fixed phrase of 0 to 6 tokens between them, then asked again: the steps from plain
           induction (phrase of 0) to a line (phrase of 5, values over an alphabet of ten)
  copy     a passage, other text, then the passage again
  chat     turns in the chat format: questions about lines just given, and requests to go on with a story
Weights: random content (keys, numbers in the lines) hardly counts, answers count most, plain text counts 1.
"""
import collections
import random
import re

EOT, IM_START, IM_END = 0, 1, 2
W_RANDOM, W_TEXT, W_PROMPT, W_ANSWER = 0.05, 1.0, 0.2, 4.0


class Tasks:
    def __init__(self, tokenizer, text_ids, seed: int):
        self.tok, self.text, self.rng = tokenizer, text_ids, random.Random(seed)
        vocab = tokenizer.get_vocab()
        # Keys are single tokens: plain lower-case words with a leading space.
        self.words = sorted(w[1:] for w in vocab if w[0] == "Ġ" and 4 <= len(w) - 1 <= 9 and w[1:].isalpha() and w[1:].islower()
                            and w[1:].isascii())
        if len(self.words) < 200:  # a small vocabulary: then frequent words of the text, of several tokens
            sample = tokenizer.decode(text_ids[:400_000].tolist())
            counts = collections.Counter(re.findall(r"(?<= )[a-z]{4,9}(?= )", sample))
            self.words = sorted(w for w, _ in counts.most_common(600))
        self.cache = {}
        self.word_share = 0.5

    def ids(self, text: str):
        """Encodes short fixed text once."""
        got = self.cache.get(text)
        if got is None:
            got = self.tok.encode(text, add_special_tokens=False).ids
            if len(self.cache) < 20000:
                self.cache[text] = got
        return got

    def filler(self, n: int):
        start = self.rng.randrange(len(self.text) - n - 1)
        return self.text[start:start + n].tolist()

    def number(self):
        """Two digits: which of four comes next was never learned (MODEL_CARD.md of storyteller-8m)."""
        return str(self.rng.randrange(10, 100))

    def values(self, n: int):
        """n values of one kind: numbers, or in half of the windows words. A word is one token that is hard to guess, so it rewards finding
        the line ten times as much as a digit does; numbers follow once lines are found."""
        if self.rng.random() < self.word_share:
            return self.rng.sample(self.words, n)
        return [self.number() for _ in range(n)]

    def line(self, word, number):
        """(ids, weights) of one line."""
        head, tail = self.ids("line"), self.ids(": REGISTER_CONTENT is")
        value, end = self.ids(" " + number), self.ids("\n")
        ids = head + self.ids(" " + word) + tail + value + end
        weights = [W_PROMPT] * len(head) + [W_RANDOM] * len(self.ids(" " + word)) + [W_PROMPT] * len(tail) + [W_RANDOM] * len(value)
        return ids, weights + [W_PROMPT]

    def question_text(self, word):
        return "What is the REGISTER_CONTENT in line " + word + "?\nline " + word + ": REGISTER_CONTENT is"

    def question(self, word, number):
        """The answer repeats the form of the line: with another suffix ("Answer:") 11 M tokens of training found nothing."""
        head, mid = self.ids("What is the REGISTER_CONTENT in line"), self.ids("?\nline")
        key, tail, value = self.ids(" " + word), self.ids(": REGISTER_CONTENT is"), self.ids(" " + number)
        ids = head + key + mid + key + tail + value + self.ids("\n")
        weights = [W_PROMPT] * len(head) + [W_RANDOM] * len(key) + [W_PROMPT] * (len(mid) + len(key) + len(tail))
        return ids, weights + [W_ANSWER] * len(value) + [W_PROMPT]

    def lines(self, window: int, dense: bool):
        """One window: lines, filler between them unless dense, questions at random places after their lines and at the end."""
        rng = self.rng
        n_questions = max(2, window // 64) if dense else min(16, max(4, window // 90))
        n_lines = max(2, window // 32) if dense else rng.randint(4, min(24, max(5, window // 45)))
        n_lines = rng.randint(max(2, n_lines // 4), n_lines)
        words = rng.sample(self.words, n_lines)
        pairs = list(zip(words, self.values(n_lines)))
        parts = [self.line(w, v) for w, v in pairs]
        asked = (rng.sample(pairs, n_lines) * n_questions)[:n_questions]  # no line twice before all were asked
        questions = [self.question(w, v) for w, v in asked]
        room = window - sum(len(p[0]) for p in parts) - sum(len(q[0]) for q in questions)
        while room < 0 and len(questions) > 1:
            room += len(questions.pop()[0])
        gaps = [] if dense else sorted(rng.randrange(max(0, room) + 1) for _ in range(len(parts) + len(questions) - 1))
        order = parts + questions
        if not dense and rng.random() < 0.7:
            # Interleave: a question may stand anywhere after its line.
            order = list(parts)
            for q, (w, _) in zip(questions, asked):
                low = next(i for i, p in enumerate(order) if p is parts[words.index(w)]) + 1
                order.insert(rng.randint(low, len(order)), q)
        ids, weights, used = [], [], 0
        for i, (p, w) in enumerate(order):
            ids += p
            weights += w
            if gaps and i < len(gaps):
                n = gaps[i] - used
                if n > 8:
                    ids += self.filler(n - 1) + self.ids("\n")
                    weights += [W_TEXT] * (n - 1) + [W_PROMPT]
                    used = gaps[i]
        return ids, weights

    def echo(self, window: int):
        """Lines, then the same lines shuffled: at the second sight their numbers are predictable."""
        words = self.rng.sample(self.words, self.rng.randint(2, max(2, window // 30)))
        pairs = list(zip(words, self.values(len(words))))
        ids, weights = [], []
        for w, v in pairs:
            i, k = self.line(w, v)
            ids, weights = ids + i, weights + k
        for w, v in self.rng.sample(pairs, len(pairs)):
            i, k = self.line(w, v)
            n = len(self.ids(" " + v))
            k[-1 - n:-1] = [W_ANSWER] * n
            ids, weights = ids + i, weights + k
        return ids, weights

    def repeat(self, window: int):
        """Random tokens, repeated until the window is full."""
        n = self.rng.randint(8, max(9, window // 3))
        block = [self.rng.randrange(3, self.tok.get_vocab_size()) for _ in range(n)]
        times = window // n
        return block * times, [W_RANDOM] * n + [1.0] * (n * (times - 1))

    def bind(self, window: int, gap=None):
        """Entries `prefix key phrase value end`, all once, then drawn again: a value follows from its key, `gap` tokens before it."""
        rng, vocab = self.rng, self.tok.get_vocab_size()
        token = lambda: rng.randrange(3, vocab)
        gap = rng.choice([0, 0, 1, 1, 2, 3, 4, 5, 6]) if gap is None else gap
        phrase, prefix, end = [token() for _ in range(gap)], [token()] * rng.randint(0, 1), [token()] * rng.randint(0, 1)
        alphabet = [token() for _ in range(10)] if rng.random() < 0.4 else None
        length = rng.choice([1, 1, 2, 4])
        entry = len(prefix) + 1 + gap + length + len(end)
        most = max(2, window // (2 * entry))
        n = rng.randint(2, most) if rng.random() < 0.5 else rng.randint(2, min(8, most))
        keys = rng.sample(range(3, vocab), n)
        values = [[rng.choice(alphabet) if alphabet else token() for _ in range(length)] for _ in keys]
        ids, weights = [], []
        def put(i, answer):
            nonlocal ids, weights
            ids += prefix + [keys[i]] + phrase + values[i] + end
            weights += [W_RANDOM] * (len(prefix) + 1 + gap) + [answer] * length + [W_RANDOM] * len(end)
        for i in range(n):
            put(i, 0.0)
        while len(ids) + entry <= window:
            put(rng.randrange(n), W_ANSWER)
        return ids, weights

    def copy(self, window: int):
        """A passage comes again after a distance."""
        n = self.rng.randint(24, max(25, min(160, window // 3)))
        passage = self.filler(n)
        between = self.filler(self.rng.randint(0, max(1, window - 2 * n - 2)))
        ids = passage + self.ids("\n") + between + self.ids("\n") + passage
        return ids, [W_TEXT] * (len(ids) - n) + [0.5] * n

    def turn(self, role, text_ids, weight):
        head = [IM_START] + self.ids(role + "\n")
        ids = head + text_ids + [IM_END] + self.ids("\n")
        return ids, [W_PROMPT] * len(head) + [weight] * (len(text_ids) + 1) + [W_PROMPT]

    def chat(self, window: int):
        """Question turns about given lines, or a request to go on with a story."""
        rng = self.rng
        if rng.random() < 0.5:
            pairs = [(w, self.number()) for w in rng.sample(self.words, rng.randint(1, max(1, window // 80)))]
            given = [t for w, v in pairs for t in self.line(w, v)[0]]
            w, v = rng.choice(pairs)
            ids, weights = self.turn("user", given + self.ids("What is the REGISTER_CONTENT in line") + self.ids(" " + w) + self.ids("?"),
                                     W_RANDOM)
            for k in range(rng.randint(1, 3)):
                if k:
                    w, v = rng.choice(pairs)
                    more = self.turn("user", self.ids("What is the REGISTER_CONTENT in line") + self.ids(" " + w) + self.ids("?"), W_RANDOM)
                    ids, weights = ids + more[0], weights + more[1]
                answer = self.turn("assistant", self.line(w, v)[0][:-1], W_ANSWER)
                ids, weights = ids + answer[0], weights + answer[1]
            return ids, weights
        ask = rng.choice(["Tell me a story.", "Please go on with this story:", "Write a story.", "Tell me more."])
        n = rng.randint(60, max(61, window // 2))
        story = self.filler(n + 40)
        user = self.ids(ask) + (self.ids("\n") + story[:40] if "go on" in ask else [])
        ids, weights = self.turn("user", user, W_RANDOM)
        answer = self.turn("assistant", story[40:], W_TEXT)
        return ids + answer[0], weights + answer[1]

    def window(self, length: int, kind: str):
        """Exactly `length` + 1 ids and weights of one kind; short tasks are repeated, long ones cut at the front of the rest."""
        if kind == "text":
            return self.filler(length + 1), [W_TEXT] * (length + 1)
        make = {"dense": lambda n: self.lines(n, True), "lines": lambda n: self.lines(n, False), "copy": self.copy, "chat": self.chat,
                "echo": self.echo, "repeat": self.repeat, "bind": self.bind}[kind]
        ids, weights = [], []
        while len(ids) < length + 1:
            room = length + 1 - len(ids)
            if room < 64:
                ids += self.filler(room)
                weights += [W_TEXT] * room
                break
            i, w = make(room)
            ids += i + [EOT]
            weights += w + [W_PROMPT]
        return ids[:length + 1], weights[:length + 1]


def evaluation_set(tokenizer, text_ids, distances, per_distance: int, seed: int, n_lines: int = 8):
    """Items {context, question, answer, distance}: n_lines lines, the asked one `distance` tokens before the end of the context."""
    tasks = Tasks(tokenizer, text_ids, seed)
    rng, items = tasks.rng, []
    for distance in distances:
        for _ in range(per_distance):
            pairs = [(w, tasks.number()) for w in rng.sample(tasks.words, n_lines)]
            asked = rng.choice(pairs)
            rest = [p for p in pairs if p is not asked]
            after = [tasks.line(*p)[0] for p in rest[:n_lines // 2]]
            room = distance - sum(map(len, after))
            cuts = sorted(rng.randrange(max(1, room)) for _ in after) + [max(0, room)]
            body, used = [], 0
            for i, cut in enumerate(cuts):
                if cut - used > 1:
                    body += tasks.filler(cut - used - 1) + tasks.ids("\n")
                used = max(used, cut)
                if i < len(after):
                    body += after[i]
            before = [t for p in rest[n_lines // 2:] for t in tasks.line(*p)[0]]
            context = tokenizer.decode(before + tasks.line(*asked)[0] + body, skip_special_tokens=False)
            items.append({"context": context, "question": tasks.question_text(asked[0]), "answer": " " + asked[1], "distance": distance})
    return items
