"""A reference solution of the capstone: what a stranger runs, with this file and handover.pt."""

import torch

from course_utils.checkpoints import load_checkpoint
from course_utils.models import EfficientNet_Lite0_Weights, efficientnet_lite0, replace_head


def predict(path, pictures):
    handover = load_checkpoint(path)  # compares every byte with its checksum
    model = replace_head(efficientnet_lite0(), len(handover["classes"]))
    model.load_state_dict(handover["model_state_dict"])
    model.eval()
    transform = EfficientNet_Lite0_Weights[handover["preprocessing"].split(".")[1]].transforms()
    with torch.no_grad():
        logits = torch.cat([model(transform(picture.convert("RGB"))[None]) for picture in pictures])
    return [handover["classes"][number] for number in logits.argmax(dim=1).tolist()]
