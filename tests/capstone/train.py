"""A reference solution of the capstone: a head on the features of 100 images, resumable at any moment."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from course_utils.checkpoints import Training, save_checkpoint
from course_utils.data import load_datasets
from course_utils.freezing import cache_features
from course_utils.models import EfficientNet_Lite0_Weights, efficientnet_lite0, replace_head
from course_utils.runtime import seed_everything
from course_utils.training import evaluate

weights = EfficientNet_Lite0_Weights.IMAGENET1K_V1
train_set, val_set, _ = load_datasets(weights.transforms(), per_class=300)
train_set, val_set = train_set.take(100), val_set.take(40)

seed_everything(0)
model = replace_head(efficientnet_lite0(weights=weights), 2).requires_grad_(False)
backbone = nn.Sequential(model.features, model.avgpool).eval()
train_features = cache_features(backbone, train_set, file="train_features.pt")
val_features = cache_features(backbone, val_set, file="val_features.pt")

head = model.classifier.requires_grad_(True)
optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
loader = DataLoader(train_features, batch_size=20, shuffle=True)
with Training("run", {"head": head, "optimizer": optimizer}, metric="val_loss") as training:
    started = training.epoch
    for epoch in training.epochs(100):
        if epoch > started:
            print(f"epoch {epoch - 1} is saved", flush=True)  # an epoch is on the disk when the next one begins
        head.train()
        for x, y in training.batches(loader):
            loss = F.cross_entropy(head(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        val_loss, val_accuracy = evaluate(head, DataLoader(val_features, batch_size=40))
        training.end_epoch({"val_loss": val_loss, "val_accuracy": val_accuracy})
training.load_best()

handover = {
    "model_state_dict": model.state_dict(),
    "classes": list(train_set.classes),
    "preprocessing": str(weights),
    "train_files": [f"{path.parent.name}/{path.name}" for path in train_set.files],
}
save_checkpoint(handover, "handover.pt")
