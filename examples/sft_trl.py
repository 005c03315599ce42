"""LoRA with a running cost under TRL's SFTTrainer: a causal language model completes prompts."""

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

    costs = ()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = Trainer.compute_loss(self, model, inputs, True, num_items_in_batch)
        if model.training:
            self.costs = (*self.costs, outputs.running_cost)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, *args, **kwargs):
        if "loss" in logs and self.costs:
            logs = {**logs, "running_cost": torch.stack(self.costs).mean().item()}
            self.costs = ()
        super().log(logs, *args, **kwargs)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hugging Face name of a causal LM")
    parser.add_argument("--cost", required=True, help="folder of a saved running cost for that model")
    parser.add_argument("--out", default="adapter")
    parser.add_argument("--weight", type=float, default=0.5, help="of the running cost in the loss")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=False)
    plm = AutoModelForCausalLM.from_pretrained(args.model, trust_remote_code=False)
    # Made here and not by the trainer's peft_config: the cost is plugged in before the trainer is built.
    model = get_peft_model(plm, pets.get("lora", r=8))
    cost = bridges.RunningCost.from_pretrained(args.cost)
    pets.regularize(model, cost, weight=args.weight)

    on_gpu = torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=args.out,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=args.lr,
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
