"""LoRA with a running cost and R-Drop under Accelerate: accumulation, logs, resuming."""

from __future__ import annotations

import argparse
import os

import torch
from accelerate import Accelerator
from peft import get_peft_model
from torch.utils.data import DataLoader
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
    parser.add_argument("--log-with", help="a tracker, such as tensorboard or wandb")
    parser.add_argument("--resume", action="store_true", help="go on for so many epochs more")
    args = parser.parse_args()

    torch.manual_seed(0)
    accelerator = Accelerator(  # mixed_precision="bf16" on a GPU
        gradient_accumulation_steps=2, log_with=args.log_with, project_dir=args.out
    )
    accelerator.init_trackers("bridge-pets")
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=False)
    plm = AutoModelForMaskedLM.from_pretrained(args.model, trust_remote_code=False)
    model = get_peft_model(plm, pets.get("lora", r=8))
    cost = bridges.RunningCost.from_pretrained(args.cost)
    # Before `prepare`, so that what prepare may wrap around the model is fed the whole loss.
    both = [(cost, pets.Ratio(args.ratio)), "r-drop:weight=0.5"]
    handle = pets.regularize(model, both, schedule="warmup:4")

    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=args.lr)
    loader = DataLoader(prompts(tokenizer), batch_size=2, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accelerator.register_for_checkpointing(handle)  # how far the weights have come
    if args.resume:
        accelerator.load_state(os.path.join(args.out, "state"))
    model.train()
    for epoch in range(1, args.epochs + 1):
        for batch in loader:
            with accelerator.accumulate(model):
                output = model(**batch)
                accelerator.backward(output.loss)
                optimizer.step()
                optimizer.zero_grad()
        logs = handle.logs()  # means over the epoch's steps and over processes, each of which calls it
        accelerator.log(logs, step=epoch)
        accelerator.print(f"epoch {epoch} {shown(logs)}")

    accelerator.save_state(os.path.join(args.out, "state"))
    accelerator.end_training()
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(args.out)


if __name__ == "__main__":
    main()
