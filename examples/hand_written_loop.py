"""LoRA with a running cost and R-Drop in a plain PyTorch loop."""

from __future__ import annotations

import argparse

import torch
from peft import get_peft_model
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
    return batch


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
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=False)
    plm = AutoModelForMaskedLM.from_pretrained(args.model, trust_remote_code=False)
    model = get_peft_model(plm, pets.get("lora", r=8)).to(device)
    cost = bridges.RunningCost.from_pretrained(args.cost)
    # From here on .loss includes both. Their weights rise over the first steps, then fall to 0.
    both = [(cost, pets.Ratio(args.ratio)), "r-drop:weight=0.5"]
    handle = pets.regularize(model, both, schedule=f"warmup:4+cosine:{args.steps}")

    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=args.lr)
    batch = prompts(tokenizer).to(device)
    model.train()
    for step in range(1, args.steps + 1):
        output = model(**batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step} loss {output.loss:.4f} {shown(handle.last)}")

    model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
