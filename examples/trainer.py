"""LoRA with a running cost and R-Drop under the transformers Trainer: logs, checkpoints, resuming."""

from __future__ import annotations

import argparse
import os

import torch
from peft import get_peft_model
from transformers import AutoModelForMaskedLM, AutoTokenizer, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hugging Face name of a masked LM")
    parser.add_argument("--cost", required=True, help="folder of a saved running cost for that model")
    parser.add_argument("--out", default="trainer", help="folder of checkpoints and adapter")
    parser.add_argument("--ratio", type=float, default=0.1, help="of the cost's gradient to the task's")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=False)
    plm = AutoModelForMaskedLM.from_pretrained(args.model, trust_remote_code=False)
    model = get_peft_model(plm, pets.get("lora", r=8))
    cost = bridges.RunningCost.from_pretrained(args.cost)
    # The Trainer's logs show both, and its checkpoints keep what was measured, by themselves.
    both = [(cost, pets.Ratio(args.ratio)), "r-drop:weight=0.5"]
    pets.regularize(model, both, schedule="warmup:4+cosine")

    rows = prompts(tokenizer)
    arguments = TrainingArguments(
        output_dir=args.out,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=args.lr,
        bf16=torch.cuda.is_available(),
        label_names=["labels"],  # a peft model does not tell the Trainer
        logging_strategy="epoch",
        eval_strategy="epoch",  # the task loss alone: in eval mode no cost is added
        save_strategy="epoch",
        load_best_model_at_end=True,  # by eval_loss
        report_to=[],
        disable_tqdm=True,
    )
    # Your validation set goes where the training rows stand a second time.
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    last = get_last_checkpoint(args.out) if args.resume and os.path.isdir(args.out) else None
    trainer.train(resume_from_checkpoint=last)
    model.save_pretrained(os.path.join(args.out, "adapter"))


if __name__ == "__main__":
    main()
