"""A sequence classifier with a new head: LoRA with a running cost that ends at words for the classes."""

from __future__ import annotations

import argparse

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

import bridges
import pets

EXAMPLES = [
    ("We liked this film", 1),
    ("They liked the story and the moon in it", 1),
    ("A very fine book", 1),
    ("Yes, we saw the film and liked it", 1),
    ("We hated this film", 0),
    ("They hated the story and the rain in it", 0),
    ("A very poor book", 0),
    ("No, we saw the film and hated it", 0),
]
WORDS = {"negative": "bad", "positive": ["good", "fine"]}  # in the order of the classes


def classifier(name):
    """The pretrained body under a new head, and the names of what the checkpoint has no weights for."""
    plm, info = AutoModelForSequenceClassification.from_pretrained(
        name, num_labels=len(WORDS), output_loading_info=True, trust_remote_code=False
    )
    body = plm.base_model_prefix + "."
    return plm, sorted({key.removeprefix(body).split(".")[0] for key in info["missing_keys"]})


def rows(tokenizer):
    texts = [text for text, _ in EXAMPLES]
    batch = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    batch["labels"] = torch.tensor([label for _, label in EXAMPLES])  # [B]: a class for each text
    return [{key: value[i] for key, value in batch.items()} for i in range(len(EXAMPLES))]


def accuracy(prediction):
    return {"accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids).mean().item()}


class CostTrainer(Trainer):
    """Writes the running cost into the log, beside the loss that includes it."""

    costs = ()

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
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
    parser.add_argument("--model", required=True, help="folder or Hugging Face name of a masked LM")
    parser.add_argument("--cost", required=True, help="folder of a running cost fitted with that LM")
    parser.add_argument("--out", default="adapter")
    parser.add_argument("--weight", type=float, default=0.5, help="of the running cost in the loss")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=False)
    plm, new = classifier(args.model)
    # What is new is trained and saved with the LoRA: the head, and a pooler where a masked LM had none.
    model = get_peft_model(plm, pets.get("lora", model=plm, modules_to_save=new))
    cost = bridges.RunningCost.from_pretrained(args.cost)
    words = pets.Verbalizer.of_words(tokenizer, WORDS)
    pets.regularize(model, cost, args.weight, verbalizer=words)  # before the Trainer is built

    data = rows(tokenizer)
    arguments = TrainingArguments(
        output_dir=args.out,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=4,
        learning_rate=args.lr,
        bf16=torch.cuda.is_available(),
        label_names=["labels"],  # a peft model does not tell the Trainer
        logging_strategy="epoch",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    # Your validation set goes where the training rows stand a second time.
    trainer = CostTrainer(
        model=model, args=arguments, train_dataset=data, eval_dataset=data, compute_metrics=accuracy
    )
    before = trainer.evaluate()["eval_accuracy"]
    trainer.train()
    print(f"accuracy {before:.3f} before and {trainer.evaluate()['eval_accuracy']:.3f} after")

    model.save_pretrained(args.out)
    again = PeftModel.from_pretrained(classifier(args.model)[0], args.out)
    logits = [each.predict(data).predictions for each in (trainer, Trainer(model=again, args=arguments))]
    print(f"largest difference of the reloaded logits {abs(logits[0] - logits[1]).max():g}")


if __name__ == "__main__":
    main()
