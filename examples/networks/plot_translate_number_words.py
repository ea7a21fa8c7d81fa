"""
Translating number words
========================

A small transformer translates English number words to German, where the units stand before the
tens: *forty-two* is *zwei und vierzig*. Its feed-forward blocks are
:class:`~skparse.nn.SparseExpertFeedForward`: 256 hidden units, of which K are kept for each word.
Four models are trained in the same 200 steps: a dense one, one with K = 16, one for which K is
drawn in the last part of the training, and the same with a product router. Then K is lowered.
"""

import sys
import time

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional

from skparse.nn import NestedTopK, SparseExpertFeedForward, replace_feed_forward, set_top_k

# A seed and a number of steps can be given on the command line.
seed, n_steps = [int(value) for value in sys.argv[1:]] or [0, 200]

# %%
# The words
# ---------
# All numbers below one million. The test numbers are not among the training numbers.

ENGLISH = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty "
    "ninety hundred thousand"
).split()
GERMAN = (
    "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn "
    "fünfzehn sechzehn siebzehn achtzehn neunzehn zwanzig dreißig vierzig fünfzig sechzig siebzig "
    "achtzig neunzig hundert tausend"
).split()


def write_number(n, words, german=False, one="eins"):
    """Write a number below one million as a list of words."""
    for size, word in ((1000, words[-1]), (100, words[-2])):
        if n >= size:
            rest = write_number(n % size, words, german) if n % size else []
            return [*write_number(n // size, words, german, one="ein"), word, *rest]
    if n < 20:
        return [one if german and n == 1 else words[n]]
    tens, units = [words[18 + n // 10]], write_number(n % 10, words, german, "ein")
    if n % 10 == 0:
        return tens
    return [*units, "und", *tens] if german else [*tens, *units]


def encode(numbers, words, german=False):
    """Numbers of the words, between a start (1) and an end (2), padded with zeros."""
    index = {word: i for i, word in enumerate(["", "<", ">", *words, "ein", "und"])}
    rows = [[1, *(index[w] for w in write_number(n, words, german)), 2] for n in numbers]
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


batch_size, n_test = 128, 500
generator = torch.Generator().manual_seed(seed)
numbers = torch.randperm(10**6, generator=generator)[: n_test + n_steps * batch_size].tolist()
x, y = encode(numbers, ENGLISH), encode(numbers, GERMAN, german=True)
for n in (42, 101, 421_019):
    print(*write_number(n, ENGLISH), "-", *write_number(n, GERMAN, german=True))

# %%
# The model
# ---------
# An encoder and a decoder of one layer each, in plain PyTorch.

d_model, n_hidden = 64, 256


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        self.source, self.target = (nn.Embedding(len(ENGLISH) + 5, d_model) for _ in range(2))
        self.position = nn.Embedding(32, d_model)
        options = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        self.encoder = nn.TransformerEncoderLayer(d_model, 4, n_hidden, **options)
        self.decoder = nn.TransformerDecoderLayer(d_model, 4, n_hidden, **options)
        self.output = nn.Linear(d_model, len(GERMAN) + 5)

    def forward(self, x, y):
        padding, mask = x == 0, nn.Transformer.generate_square_subsequent_mask(y.shape[1])
        source, target = (
            embedding(words) + self.position.weight[: words.shape[1]]
            for embedding, words in ((self.source, x), (self.target, y))
        )
        memory = self.encoder(source, src_key_padding_mask=padding)
        decoded = self.decoder(target, memory, mask, memory_key_padding_mask=padding)
        return self.output(decoded)

    @torch.no_grad()
    def translate(self, x, n_words):
        """Translate word for word: always the most probable one."""
        y = torch.ones(len(x), 1, dtype=torch.int64)
        for _ in range(n_words):
            y = torch.cat([y, self(x, y)[:, -1:].argmax(dim=2)], dim=1)
        ended = (y == 2).cumsum(dim=1) - (y == 2).int() > 0
        return y.masked_fill(ended, 0)


# %%
# Training
# --------
# :func:`~skparse.nn.replace_feed_forward` replaces the two blocks of a new transformer.
# :class:`~skparse.nn.NestedTopK` draws a K for every step after 60 % of the steps.


def train(router=None, nested=False):
    torch.manual_seed(seed)
    model = Translator()
    if router is not None:
        replace_feed_forward(
            model, lambda *_: SparseExpertFeedForward(d_model, n_hidden, 16, router=router)
        )
    levels = NestedTopK(model, n_steps, top_ks=[1, 2, 4, 8, 16], seed=seed) if nested else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, n_steps, pct_start=0.2)
    for batch in torch.arange(n_test, len(x)).split(batch_size):
        if nested:
            levels.step()
        logits = model(x[batch], y[batch, :-1])
        loss = functional.cross_entropy(logits.mT, y[batch, 1:], ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def exact_matches(model):
    """Share of the test numbers that are translated without an error."""
    translated = model.translate(x[:n_test], y.shape[1] - 1)
    return (translated == y[:n_test]).all(dim=1).double().mean().item()


models = {
    "dense": {},
    "sparse, K = 16": {"router": "dense"},
    "sparse, nested": {"router": "dense", "nested": True},
    "product keys, nested": {"router": "product", "nested": True},
}
top_ks, results = [1, 2, 4, 8, 16], {}
print(f"{'model':22}{'seconds':>8}  exact matches at K = {top_ks}")
for name, options in models.items():
    start = time.perf_counter()
    model = train(**options)
    seconds = time.perf_counter() - start
    if name == "dense":
        results[name] = [exact_matches(model)] * len(top_ks)
    else:
        results[name] = [exact_matches(set_top_k(model, top_k)) for top_k in top_ks]
    print(f"{name:22}{seconds:8.1f} ", *(f"{share:.3f}" for share in results[name]))

# %%
# Exact matches
# -------------
# With K = 16 of 256 hidden units, all models are about as accurate as the dense one. Where the K
# of the training was fixed, a small K afterwards is not enough. Where it was drawn, it is: K can
# be chosen after the training.

figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
for (name, shares), marker in zip(results.items(), " os^", strict=True):
    style = {"color": "gray", "linestyle": ":"} if name == "dense" else {"marker": marker}
    ax.plot(top_ks, shares, label=name, **style)
ax.set_xscale("log", base=2)
ax.set(xticks=top_ks, xticklabels=top_ks, ylim=(0, 1.03))
ax.set(xlabel="K, of 256 hidden units", ylabel="numbers translated without an error")
ax.legend(loc="lower right")
plt.show()

# %%
# Multiply-adds of one block for one word, with biases left out: a product router computes the
# scores of 2 x 16 keys in the place of 256.

for name, n_scores, n_rows in (
    ("dense", n_hidden, n_hidden), ("sparse", n_hidden, 16), ("product keys", 2 * 16, 16),
):  # fmt: skip
    multiply_adds = d_model * (n_scores + n_rows)
    print(f"{name:22}{multiply_adds:8,} {multiply_adds / (2 * d_model * n_hidden):6.1%}")
