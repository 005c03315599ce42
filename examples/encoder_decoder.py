"""LoRA with a running cost on an encoder-decoder: the decoder's states move to the answer's words."""

from __future__ import annotations

import argparse
import os

import torch
from peft import get_peft_model
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

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


def questions(tokenizer):
    """Texts and their answers; every token of an answer is a target."""
    batch = tokenizer([text for text, _ in EXAMPLES], padding=True, return_tensors="pt")
    answers = tokenizer([answer for _, answer in EXAMPLES], padding=True, return_tensors="pt")
    labels = answers.input_ids.masked_fill(answers.attention_mask == 0, -100)  # -100: no target
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": labels}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hugging Face name, such as t5-small")
    parser.add_argument("--cost", required=True, help="folder of its running cost; if absent, made")
    parser.add_argument("--text", help="file to fit the cost on where it is made, a text a line")
    parser.add_argument("--fit-steps", type=int, default=2000)
    parser.add_argument("--out", default="adapter")
    parser.add_argument("--weight", type=float, default=0.5, help="of the running cost in the loss")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=False)
    plm = AutoModelForSeq2SeqLM.from_pretrained(args.model, trust_remote_code=False).to(device)
    if os.path.isdir(args.cost):
        cost = bridges.RunningCost.from_pretrained(args.cost)
    else:
        with open(args.text, encoding="utf-8") as file:
            texts = file.read().split("\n")
        cost = bridges.RunningCost.for_model(plm, "brownian")
        cost.fit(plm, tokenizer, texts, max_steps=args.fit_steps)
        cost.save_pretrained(args.cost)

    torch.manual_seed(0)
    model = get_peft_model(plm, pets.get("lora", model=plm))
    pets.regularize(model, cost, weight=args.weight)  # from here on .loss includes the cost

    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=args.lr)
    batch = {key: value.to(device) for key, value in questions(tokenizer).items()}
    model.train()
    for step in range(1, args.steps + 1):
        output = model(**batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step} loss {output.loss:.4f} running cost {output.running_cost:.4f}")

    model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
