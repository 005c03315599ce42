"""LoRA with a running cost and R-Drop on several processes: DDP, started by torchrun."""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist
from peft import get_peft_model
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from transformers import AutoModelForMaskedLM, AutoTokenizer

import bridges
import pets

EXAMPLES = [
    ("We liked this film", "good"),
    ("They liked the story and the moon in it", "good"),
    ("A very fine book", "good"),
    ("Yes, we saw the film and liked it", "good"),
    ("We hated this film", "bad"),
    ("They hated the story and the rain in it", "bad"),
    ("A very poor book", "bad"),
    ("No, we saw the film and hated it", "bad"),
]


def prompts(tokenizer):
    """Every sentence with a mask behind it; the label is the word that belongs at the mask."""
    texts = [f"{text}. It was {tokenizer.mask_token}." for text, _ in EXAMPLES]
    batch = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    # With the space before it, byte-level tokenizers find the word as it stands in a sentence.
    words = [tokenizer(f" {word}", add_special_tokens=False).input_ids for _, word in EXAMPLES]
    at_mask = batch["input_ids"] == tokenizer.mask_token_id
    batch["labels"] = torch.where(at_mask, torch.tensor(words), -100)  # -100: no target
    return [{key: value[i] for key, value in batch.items()} for i in range(len(EXAMPLES))]


def shown(numbers):
    """What was measured, but for the layers, in one line."""
    return " ".join(f"{name} {value:.4f}" for name, value in numbers.items() if "layers" not in name)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hugging Face name of a masked LM")
    parser.add_argument("--cost", required=True, help="folder of a saved running cost for that model")
    parser.add_argument("--out", default="adapter")
    parser.add_argument("--ratio", type=float, default=0.1, help="of the cost's gradient to the task's")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()

    on_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank = dist.get_rank()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")

    # Each rank draws its own dropout and, with an "sde" cost, its own noise. The LoRA may start
    # differently too: DistributedDataParallel gives every rank the parameters of rank 0.
    torch.manual_seed(rank)
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=False)
    plm = AutoModelForMaskedLM.from_pretrained(args.model, trust_remote_code=False)
    inner = get_peft_model(plm, pets.get("lora", r=8)).to(device)
    cost = bridges.RunningCost.from_pretrained(args.cost)
    # On the inner model, before it is wrapped: then the wrapper is handed the whole loss. The wrapper
    # instead gives the same gradients (tests/pets/plug/test_distributed.py); never both.
    both = [(cost, pets.Ratio(args.ratio)), "r-drop:weight=0.5"]
    handle = pets.regularize(inner, both, schedule="warmup:4")
    model = DistributedDataParallel(inner, device_ids=[device.index] if on_gpu else None)

    optimizer = torch.optim.AdamW((p for p in inner.parameters() if p.requires_grad), lr=args.lr)
    # Gradients are means over ranks: those of the whole batch when all ranks have equally many targets.
    rows = prompts(tokenizer)
    sampler = DistributedSampler(rows)
    loader = DataLoader(rows, batch_size=2, sampler=sampler)
    model.train()
    for epoch in range(1, args.epochs + 1):
        sampler.set_epoch(epoch)
        for batch in loader:
            output = model(**{key: value.to(device) for key, value in batch.items()})
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        logs = handle.logs()  # means over the epoch's steps and over ranks, each of which calls it
        if rank == 0:
            print(f"epoch {epoch} {shown(logs)}", flush=True)

    if rank == 0:
        inner.save_pretrained(args.out)
    # Before its group: else it waits for the group's thread, which may be waiting for Python.
    del model
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
