"""Answers before the last layer: LoRA with a cost about the label, exits, a model that is cut at one."""

from __future__ import annotations

import argparse

import torch
from peft import get_peft_model
from transformers import AutoModelForMaskedLM, AutoTokenizer

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
WORDS = {"negative": "bad", "positive": "good"}  # of one token each


def prompts(tokenizer, texts):
    """Prompts without an answer: what the model is asked once it is tuned."""
    masked = [f"{text}. It was {tokenizer.mask_token}." for text in texts]
    return tokenizer(masked, padding=True, return_tensors="pt", return_token_type_ids=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hugging Face name of a masked LM")
    parser.add_argument("--text", required=True, help="file of lines that the lens is fitted on")
    parser.add_argument("--out", default="cut", help="folder of the model that is cut")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--max-loss", type=float, default=0.1, help="of accuracy, by cutting the model")
    args = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=False)
    plm = AutoModelForMaskedLM.from_pretrained(args.model, trust_remote_code=False)
    cost = bridges.RunningCost.for_model(plm, "posterior", map="lens")
    with open(args.text, encoding="utf-8") as lines:
        cost.fit(plm, tokenizer, list(lines), progress=False)

    model = get_peft_model(plm, pets.get("lora", model=plm, r=8))
    words = pets.Verbalizer.of_words(tokenizer, WORDS)
    handle = pets.regularize(model, cost, pets.Ratio(0.1), verbalizer=words)
    inputs = prompts(tokenizer, [text for text, _ in EXAMPLES])
    classes = torch.tensor([label for _, label in EXAMPLES])
    answers = torch.tensor([word[0][0] for word in words.tokens])[classes]
    at_mask = inputs["input_ids"] == tokenizer.mask_token_id
    labels = torch.where(at_mask, answers[:, None], -100)  # as any masked LM is trained
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    model.train()
    for _ in range(args.steps):
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    handle.remove()

    # Every layer gets an exit, in closed form. Other labelled examples than those it was tuned on go
    # here too, where there are any.
    labelled = [{**inputs, "labels": classes}]
    anytime = pets.AnytimeClassifier(model, cost, words, args.threshold).fit(labelled)
    output = anytime(**prompts(tokenizer, ["A quick and fine story", "We hated the dog in it"]))
    sure, where = output.probabilities.amax(1).tolist(), output.layers.tolist()
    for label, probability, layer in zip(output.labels.tolist(), sure, where, strict=True):
        left = f"left at layer {layer} of {anytime.num_layers}"
        print(f"{words.labels[label]}, {probability:.3f} sure, {left}")

    # Your validation set goes where the labelled examples stand again.
    cut = pets.truncate(anytime, max_loss=args.max_loss, batches=labelled)
    print(cut)
    cut.save_pretrained(args.out, tokenizer)
    again = pets.TruncatedClassifier.from_pretrained(args.out)
    apart = (again(**inputs).probabilities - cut(**inputs).probabilities).abs().max().item()
    print(f"largest difference of the reloaded probabilities {apart:g}")


if __name__ == "__main__":
    main()
