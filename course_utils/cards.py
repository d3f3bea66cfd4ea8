"""The model card of a release: what people want to know before they use a model. Source: notebook 08."""


def model_card(title: str, config: dict, passport: dict, data: str, license: str, limits: list[str]) -> str:
    """The model card, with the lines at its top that the Hub reads.

    Source: https://huggingface.co/docs/hub/model-cards
    """
    accuracy = passport["correct"] / passport["images"]
    error = (accuracy * (1 - accuracy) / passport["images"]) ** 0.5
    split, facts = passport["split"], {**passport["machine"], **passport["versions"]}
    return f"""---
license: {license}
library_name: pytorch
pipeline_tag: image-classification
---
# {title}

A `{config["model"]}` that tells {" from ".join(config["classes"])}.

**Data.** {data}

**Accuracy.** {accuracy:.1%} ± {100 * error:.1f} points (one standard error): {passport["correct"]} of the
{passport["images"]} images of the split "{split["split"]}" ({split["source"]}, {split["per_class"]} of each class).

**Limits.** {" ".join(limits)}

**Preprocessing.** {config["transform"]}

**Made with.** {", ".join(f"{name} {value}" for name, value in facts.items())}

**Check it.** `python -m course_utils.sharing verify FOLDER` rebuilds the model from this folder, without running any
code of it, and computes the accuracy again.
"""
