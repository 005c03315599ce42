"""The seven GLUE tasks: their columns, the words that name their classes, their metric."""

from __future__ import annotations

from pets.tasks.data import GlueLabel, GlueTask


class SST2(GlueTask, name="sst2"):
    """Is the opinion of a sentence from a film review negative or positive?"""

    folder = "SST-2"
    labels = (GlueLabel("negative", "negative", "0", 0), GlueLabel("positive", "positive", "1", 1))
    tsv_texts = hub_texts = ("sentence",)
    natural = "{sentence}\nsentiment: {answer}"


class MNLI(GlueTask, name="mnli"):
    """Does the first text imply the second, contradict it, or neither? The matched dev set."""

    folder = "MNLI"
    labels = (
        GlueLabel("neutral", "maybe", "neutral", 1),
        GlueLabel("contradiction", "no", "contradiction", 2),
        GlueLabel("entailment", "yes", "entailment", 0),
    )
    tsv_texts, tsv_label, hub_texts = ("sentence1", "sentence2"), "gold_label", ("premise", "hypothesis")
    reported_file, reported_split = "dev_matched.tsv", "validation_matched"
    stops_first = True
    natural = '{premise}\nquestion: Is it so that "{hypothesis}"?\nanswer: {answer}'


class CoLA(GlueTask, name="cola"):
    """Is this a sentence of English, to a linguist?"""

    folder, metric = "CoLA", "matthews"
    labels = (GlueLabel("unacceptable", "no", "0", 0), GlueLabel("acceptable", "yes", "1", 1))
    tsv_texts = hub_texts = ("sentence",)
    tsv_columns = ("source", "label", "star", "sentence")
    natural = "{sentence}\nquestion: Is this acceptable English?\nanswer: {answer}"


class RTE(GlueTask, name="rte"):
    """Does the first text imply the second?"""

    folder = "RTE"
    labels = (
        GlueLabel("not_entailment", "no", "not_entailment", 1),
        GlueLabel("entailment", "yes", "entailment", 0),
    )
    tsv_texts = hub_texts = ("sentence1", "sentence2")
    natural = '{sentence1}\nquestion: Is it so that "{sentence2}"?\nanswer: {answer}'


class QNLI(GlueTask, name="qnli"):
    """Does the sentence answer the question?"""

    folder, labels = "QNLI", RTE.labels
    tsv_texts = hub_texts = ("question", "sentence")
    natural = "{sentence}\nquestion: Does this answer the question '{question}'?\nanswer: {answer}"


class MRPC(GlueTask, name="mrpc"):
    """Do two sentences from the news say the same?"""

    folder, metric = "MRPC", "f1_macro"
    labels = (GlueLabel("not_equivalent", "different", "0", 0), GlueLabel("equivalent", "same", "1", 1))
    tsv_texts, tsv_label, hub_texts = ("#1 String", "#2 String"), "Quality", ("sentence1", "sentence2")
    natural = "{sentence1}\n{sentence2}\nThe meaning of the two sentences is {answer}"


class QQP(GlueTask, name="qqp"):
    """Do two questions ask the same?"""

    folder, metric = "QQP", "f1_macro"
    labels = (GlueLabel("not_duplicate", "different", "0", 0), GlueLabel("duplicate", "same", "1", 1))
    tsv_texts = hub_texts = ("question1", "question2")
    tsv_label, skips_broken_rows = "is_duplicate", True
    natural = "{question1}\n{question2}\nThe meaning of the two questions is {answer}"
