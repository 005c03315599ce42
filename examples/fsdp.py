"""LoRA with a running cost and R-Drop on a model sharded over processes: FSDP2, started by torchrun."""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist
from peft import get_peft_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
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
    parser.add_argument("--weight", type=float, default=0.5, help="of the running cost in the loss")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()

    on_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank = dist.get_rank()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")

    # The same on every rank: each keeps a part of the LoRA it made.
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=False)
    plm = AutoModelForMaskedLM.from_pretrained(args.model, trust_remote_code=False)
    model = get_peft_model(plm, pets.get("lora", r=8)).to(device)
    cost = bridges.RunningCost.from_pretrained(args.cost)
    # Every rank has the whole cost. A pets.Ratio needs whole gradients, so the weight is a number.
    both = [(cost, args.weight), "r-drop:weight=0.5"]
    handle = pets.regularize(model, both, schedule="warmup:4")
    layers = next(module for module in plm.modules() if isinstance(module, torch.nn.ModuleList))
    for layer in layers:  # gathered one at a time
        fully_shard(layer)
    fully_shard(model)
    torch.manual_seed(rank)  # from here on dropout and, with an "sde" cost, the noise differ

    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=args.lr)
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

    # What is frozen stays where it is; the LoRA is put together on rank 0, which writes it.
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state = get_model_state_dict(model, options=options)
    if rank == 0:
        model.save_pretrained(args.out, state_dict=state)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
