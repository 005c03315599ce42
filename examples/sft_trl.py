"""LoRA with a running cost and label smoothing under TRL's SFTTrainer: a causal LM completes prompts."""

from __future__ import annotations

import argparse

import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer
from trl import SFTConfig, SFTTrainer

import bridges
import pets

EXAMPLES = [
    ("We liked this film. It was", " good"),
    ("They liked the story and the moon in it. It was", " good"),
    ("A very fine book. It was", " good"),
    ("Yes, we saw the film and liked it. It was", " good"),
    ("We hated this film. It was", " bad"),
    ("They hated the story and the rain in it. It was", " bad"),
    ("A very poor book. It was", " bad"),
    ("No, we saw the film and hated it. It was", " bad"),
]


class CostTrainer(SFTTrainer):
    """Trains the model's own loss, which includes the running cost; TRL computes one without it.

    The Trainer's own compute_loss hands on how many targets there are in all accumulated batches.
    """

    def compute_loss(self, *args, **kwargs):
        return Trainer.compute_loss(self, *args, **kwargs)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hugging Face name of a causal LM")
    parser.add_argument("--cost", required=True, help="folder of a saved running cost for that model")
    parser.add_argument("--out", default="adapter")
    parser.add_argument("--ratio", type=float, default=0.1, help="of the cost's gradient to the task's")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=False)
    plm = AutoModelForCausalLM.from_pretrained(args.model, trust_remote_code=False)
    # Made here and not by the trainer's peft_config: the cost is plugged in before the trainer is built.
    model = get_peft_model(plm, pets.get("lora", r=8))
    cost = bridges.RunningCost.from_pretrained(args.cost)
    both = [(cost, pets.Ratio(args.ratio)), "label-smoothing:weight=0.05"]
    pets.regularize(model, both, schedule="warmup:4+cosine")

    on_gpu = torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=args.out,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=args.lr,
        packing=True,  # several prompts in a row, each of which counts as one by itself
        max_length=32,
        completion_only_loss=True,  # the words of the completion are the targets of loss and cost
        bf16=on_gpu,
        use_cpu=not on_gpu,
        logging_strategy="epoch",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    rows = Dataset.from_list([{"prompt": prompt, "completion": word} for prompt, word in EXAMPLES])
    trainer = CostTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
