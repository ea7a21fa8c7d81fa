"""Translate English to German with small transformers: dense, sparse, and product keys.

    SKPARSE_DATA=../shared/data python examples/benchmarks/translation.py --minutes 40 --out runs

Needs the extra "benchmark". The texts are those of Multi30k: 29,000 captions of pictures. All
models are trained with the same batches and the same number of steps, which is what the dense
model can take in the given minutes. Only the feed-forward blocks differ:

- dense: two linear layers with a ReLU, 512 hidden units;
- sparse: `SparseExpertFeedForward` with 512 experts and a dense router, K = 32;
- product: the same with 961 experts and product keys, which have as many parameters.

For the last two, K is drawn from 4, 8, 16, 32 in the last 40 % of the steps. BLEU is that of
sacreBLEU on the test set of 2016, cased, at every K, and its difference to the dense model is
tested by a paired bootstrap. A run that was interrupted goes on from its last checkpoint.
"""

import argparse
import gzip
import json
import math
import os
import time
from pathlib import Path

import sacrebleu
import sentencepiece
import torch
from sacrebleu.significance import PairedTest
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from skparse.nn import (
    NestedTopK,
    SparseExpertFeedForward,
    expert_usage,
    replace_feed_forward,
    set_top_k,
)

D_MODEL, N_HIDDEN, N_PRODUCT, TOP_KS = 128, 512, 961, (4, 8, 16, 32)
PAD, START, END = 0, 1, 2
LONGEST = 80  # subwords of a translation


def read_pairs(split):
    """Read the pairs of a split, two lists of texts."""
    folder = Path(os.environ.get("SKPARSE_DATA", "../shared/data")) / "multi30k_en_de"
    with gzip.open(folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [row["en"] for row in rows], [row["de"] for row in rows]


def train_subwords(texts, folder, size):
    """Train subwords of both languages together; returns the processor."""
    path = folder / f"subwords_{size}.model"
    if not path.exists():
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_prefix=str(path.with_suffix("")),
            vocab_size=size, model_type="bpe", character_coverage=1.0,
            pad_id=PAD, bos_id=START, eos_id=END, unk_id=3, minloglevel=2,
        )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def encode(subwords, texts):
    """Numbers of the subwords of every text, between start and end."""
    return subwords.encode(list(texts), add_bos=True, add_eos=True)


def pad(rows, device):
    """Stack rows of numbers, padded at the end."""
    return nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD
    ).to(device)


def make_batches(source, target, n_tokens):
    """Group pairs of similar length into batches of at most so many tokens."""
    order = sorted(range(len(source)), key=lambda i: (len(target[i]), len(source[i])))
    batches, longest = [[]], 0
    for i in order:
        longest = max(longest, len(source[i]), len(target[i]))
        if batches[-1] and longest * (len(batches[-1]) + 1) > n_tokens:
            batches.append([])
            longest = max(len(source[i]), len(target[i]))
        batches[-1].append(i)
    return batches


class Translator(nn.Module):
    """An encoder and a decoder with one embedding for both languages and the output."""

    def __init__(self, n_subwords, n_layers, dropout):
        super().__init__()
        self.embedding = nn.Embedding(n_subwords, D_MODEL, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=D_MODEL**-0.5)
        self.position = nn.Embedding(256, D_MODEL)
        nn.init.normal_(self.position.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        options = {"dropout": dropout, "batch_first": True, "norm_first": True}
        encoder = nn.TransformerEncoderLayer(D_MODEL, 4, N_HIDDEN, **options)
        decoder = nn.TransformerDecoderLayer(D_MODEL, 4, N_HIDDEN, **options)
        norms = nn.LayerNorm(D_MODEL), nn.LayerNorm(D_MODEL)
        self.encoder = nn.TransformerEncoder(
            encoder, n_layers, norms[0], enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(decoder, n_layers, norms[1])

    def embed(self, words):
        embedded = self.embedding(words) * math.sqrt(D_MODEL)
        return self.dropout(embedded + self.position.weight[: words.shape[1]])

    def encode(self, x):
        return self.encoder(self.embed(x), src_key_padding_mask=x == PAD)

    def decode(self, memory, padding, y):
        mask = nn.Transformer.generate_square_subsequent_mask(
            y.shape[1], device=y.device, dtype=torch.bool
        )
        decoded = self.decoder(
            self.embed(y), memory, tgt_mask=mask, memory_key_padding_mask=padding
        )
        return decoded

    def forward(self, x, y):
        decoded = self.decode(self.encode(x), x == PAD, y)
        return decoded @ self.embedding.weight.T


def build_model(kind, n_subwords, options):
    """Build a model of one kind."""
    torch.manual_seed(options.seed)
    model = Translator(n_subwords, options.layers, options.dropout)
    if kind == "dense":
        return model
    n_experts, router = (N_HIDDEN, "dense") if kind == "sparse" else (N_PRODUCT, "product")
    return replace_feed_forward(
        model, lambda *_: SparseExpertFeedForward(D_MODEL, n_experts, TOP_KS[-1], router=router)
    )


def count_multiply_adds(kind, top_k):
    """Multiply-adds of one feed-forward block for one word."""
    if kind == "dense":
        return 2 * D_MODEL * N_HIDDEN
    keys = N_HIDDEN if kind == "sparse" else 2 * math.isqrt(N_PRODUCT)
    return D_MODEL * (keys + top_k)


def loss_of(model, x, y, smoothing=0.0):
    """Mean cross-entropy per subword."""
    return functional.cross_entropy(
        model(x, y[:, :-1]).flatten(0, 1), y[:, 1:].flatten(), ignore_index=PAD,
        label_smoothing=smoothing,
    )  # fmt: skip


class Training:
    """One model, its optimiser and schedule, and where it stands."""

    def __init__(self, kind, data, n_steps, options):
        self.kind, self.data, self.options, self.n_steps = kind, data, options, n_steps
        self.model = build_model(kind, data["n_subwords"], options).to(options.device)
        self.device_type = torch.device(options.device).type
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=options.rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, options.rate, n_steps, pct_start=0.1
        )
        self.nested = None
        if kind != "dense":
            self.nested = NestedTopK(self.model, n_steps, top_ks=TOP_KS, seed=options.seed)
        self.step, self.seconds = 0, 0.0

    def parts(self):
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        return parts if self.nested is None else {**parts, "nested": self.nested}

    def save(self, path):
        state = {name: part.state_dict() for name, part in self.parts().items()}
        state |= {"step": self.step, "seconds": self.seconds, "rng": torch.get_rng_state()}
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load(self, path):
        state = torch.load(path, weights_only=True)
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.step, self.seconds = state["step"], state["seconds"]
        torch.set_rng_state(state["rng"])

    def batch(self, step):
        """Batch of a step: the batches in another order in every epoch."""
        batches = self.data["batches"]
        epoch, place = divmod(step, len(batches))
        generator = torch.Generator().manual_seed(1000 * self.options.seed + epoch)
        chosen = batches[torch.randperm(len(batches), generator=generator)[place]]
        return (
            pad([self.data[name][i] for i in chosen], self.options.device)
            for name in ("source", "target")
        )

    def run(self, path, until):
        """Train up to a step, with a checkpoint now and then."""
        self.model.train()
        bar = tqdm(range(self.step, until), initial=self.step, total=until, desc=self.kind)
        for step in bar:
            start = time.perf_counter()
            if self.nested is not None:
                self.nested.step()
            with torch.autocast(self.device_type, torch.bfloat16, enabled=self.options.bfloat16):
                loss = loss_of(self.model, *self.batch(step), self.options.smoothing)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.step = step + 1
            self.seconds += time.perf_counter() - start
            if step % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")
            if path is not None and self.step % self.options.checkpoint == 0:
                self.save(path)
        if path is not None:
            self.save(path)


@torch.inference_mode()
def translate(model, subwords, texts, device, beam=1, batch_size=100):
    """Translate texts, by the best of ``beam`` hypotheses."""
    rows = encode(subwords, texts)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    translated = [""] * len(rows)
    for first in range(0, len(order), batch_size):
        places = order[first : first + batch_size]
        x = pad([rows[i] for i in places], device)
        for i, numbers in zip(places, search(model, x, beam), strict=True):
            translated[i] = subwords.decode(numbers)
    return translated


def search(model, x, beam):
    """Beam search with the mean log-probability of a word; greedy decoding for a beam of 1."""
    n = len(x)
    memory = model.encode(x).repeat_interleave(beam, dim=0)
    padding = (x == PAD).repeat_interleave(beam, dim=0)
    y = torch.full((n * beam, 1), START, device=x.device)
    sums = torch.full((n, beam), -torch.inf, device=x.device)
    sums[:, 0] = 0.0
    ended = torch.zeros(n * beam, dtype=torch.bool, device=x.device)
    for _ in range(min(LONGEST, 2 * x.shape[1] + 10)):
        last = model.decode(memory, padding, y)[:, -1] @ model.embedding.weight.T
        steps = last.log_softmax(dim=1)
        # A hypothesis that has ended goes on with padding, at no cost.
        steps = steps.masked_fill(ended[:, None], -torch.inf)
        steps[:, PAD] = torch.where(ended, 0.0, -torch.inf)
        totals = (sums.view(-1, 1) + steps).view(n, -1)
        sums, best = totals.topk(beam, dim=1)
        origin = best // steps.shape[1] + beam * torch.arange(n, device=x.device)[:, None]
        words = (best % steps.shape[1]).flatten()
        y = torch.cat([y[origin.flatten()], words[:, None]], dim=1)
        ended = ended[origin.flatten()] | (words == END)
        if ended.all():
            break
    lengths = ((y != PAD).sum(dim=1) - 1).view(n, beam)
    chosen = (sums / lengths).argmax(dim=1) + beam * torch.arange(n, device=x.device)
    return [[w for w in row if w > END] for row in y[chosen].tolist()]


@torch.inference_mode()
def validation_loss(model, data, device):
    """Mean cross-entropy per subword of the validation pairs."""
    total = count = 0
    for batch in data["val_batches"]:
        x, y = (pad([data[n][i] for i in batch], device) for n in ("val_source", "val_target"))
        n = int((y[:, 1:] != PAD).sum())
        total, count = total + n * loss_of(model, x, y).item(), count + n
    return total / count


def evaluate(training, data, subwords, test, dense, options):
    """Loss and BLEU at every K; returns the result and the greedy translations of the largest."""
    model, device = training.model.eval(), options.device
    result = {
        "parameters": sum(value.numel() for value in model.parameters()),
        "minutes": training.seconds / 60, "steps": training.step, "levels": [],
    }  # fmt: skip
    for top_k in [None] if training.kind == "dense" else TOP_KS:
        if top_k is not None:
            set_top_k(model, top_k)
        translations = translate(model, subwords, test[0], device)
        row = {
            "top_k": top_k,
            "multiply_adds": count_multiply_adds(training.kind, top_k),
            "validation_loss": validation_loss(model, data, device),
            "bleu": sacrebleu.corpus_bleu(translations, [test[1]]).score,
        }
        if dense is not None:
            row["bootstrap"] = compare(dense, translations, test[1])
        result["levels"].append(row)
    if options.beam > 1:
        best = translate(model, subwords, test[0], device, options.beam)
        result["bleu_beam"] = sacrebleu.corpus_bleu(best, [test[1]]).score
    if training.kind != "dense":
        batches = (
            tuple(pad([data[n][i] for i in batch], device) for n in ("val_source", "val_target"))
            for batch in data["val_batches"]
        )
        usage = expert_usage(model, batches).values()
        result["dead_experts"] = [float((counts == 0).double().mean()) for counts in usage]
    return result, translations


def compare(dense, translations, references):
    """Difference of BLEU to the dense model, by a paired bootstrap of 1,000 samples."""
    _, scores = PairedTest(
        [("dense", dense), ("other", translations)], {"BLEU": sacrebleu.BLEU()}, [references],
        "bs", 1000,
    )()  # fmt: skip
    before, after = scores["BLEU"]
    return {"difference": after.score - before.score, "p_value": after.p_value}


def choose_steps(data, options):
    """Steps that the dense model can take in the given minutes."""
    if options.steps:
        return options.steps
    training = Training("dense", data, 1000, options)
    training.run(None, 5)
    training.seconds = 0.0
    training.run(None, 5 + 40)
    return int(options.minutes * 60 / (training.seconds / 40))


def draw_figure(results, path):
    """Draw BLEU over K, and loss over multiply-adds."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for kind, result in results.items():
        rows = result["levels"]
        bleu, loss = ([row[name] for row in rows] for name in ("bleu", "validation_loss"))
        if kind == "dense":
            axes[0].axhline(bleu[0], color="gray", linestyle=":")
        else:
            axes[0].plot([row["top_k"] for row in rows], bleu, "o-")
        style = {"color": "gray"} if kind == "dense" else {}
        style["label"] = {"sparse": "dense router", "product": "product keys"}.get(kind, kind)
        axes[1].plot([row["multiply_adds"] for row in rows], loss, "o-", **style)
    axes[0].set_xscale("log", base=2)
    axes[0].set(xticks=TOP_KS, xticklabels=TOP_KS, xlabel="K", ylabel="BLEU, test 2016")
    axes[1].set_xscale("log")
    axes[1].set(xlabel="multiply-adds of a block for a word", ylabel="validation loss")
    axes[1].legend(loc="upper center")
    figure.savefig(path, dpi=120)


def load_data(options):
    """Read, cut into subwords and batch the texts; returns (dict, subwords)."""
    pairs, val = read_pairs("train"), read_pairs("val")
    subwords = train_subwords([*pairs[0], *pairs[1]], options.out, options.subwords)
    data = {
        "n_subwords": options.subwords,
        "source": encode(subwords, pairs[0]), "target": encode(subwords, pairs[1]),
        "val_source": encode(subwords, val[0]), "val_target": encode(subwords, val[1]),
    }  # fmt: skip
    data["batches"] = make_batches(data["source"], data["target"], options.tokens)
    data["val_batches"] = make_batches(data["val_source"], data["val_target"], options.tokens)
    return data, subwords


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=40.0, help="of training, dense model")
    parser.add_argument("--steps", type=int, help="in the place of minutes")
    parser.add_argument("--kinds", nargs="+", default=["dense", "sparse", "product"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--subwords", type=int, default=4000)
    parser.add_argument("--tokens", type=int, default=2048, help="of a batch, at most")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--smoothing", type=float, default=0.1)
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--bfloat16", action="store_true", help="train with mixed precision")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpoint", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--out", type=Path, default=Path("translation"))
    return parser.parse_args()


def main():
    """Train and evaluate all kinds of models; write the results and a picture."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    data, subwords = load_data(options)
    path = options.out / f"seed{options.seed}.json"
    saved = json.loads(path.read_text()) if path.exists() else {}
    n_steps = saved.get("n_steps") or choose_steps(data, options)
    results, dense = saved.get("results", {}), saved.get("dense_translations")
    for kind in options.kinds:
        if kind in results:
            continue
        training = Training(kind, data, n_steps, options)
        checkpoint = options.out / f"{kind}_seed{options.seed}.pt"
        if checkpoint.exists():
            training.load(checkpoint)
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
        saved = {"settings": settings, "n_steps": n_steps, "n_batches": len(data["batches"])}
        saved |= {"results": results, "dense_translations": dense}
        path.write_text(json.dumps(saved, indent=1))
        training.run(checkpoint, n_steps)
        test = read_pairs("test")
        results[kind], translations = evaluate(training, data, subwords, test, dense, options)
        dense = translations if kind == "dense" else dense
        saved |= {"results": results, "dense_translations": dense}
        path.write_text(json.dumps(saved, indent=1))
        print(json.dumps(results[kind], indent=1), flush=True)
    draw_figure(results, options.out / f"seed{options.seed}.svg")


if __name__ == "__main__":
    main()
