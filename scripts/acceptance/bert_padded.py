"""BERT-base on padded batches, fp32: the mask decides which attention kernel runs."""

import torch
from transformers import BertConfig, BertForSequenceClassification

model = BertForSequenceClassification(BertConfig()).cuda().train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
ids = torch.randint(0, 30522, (8, 128))
mask = torch.ones_like(ids)
mask[::2, 96:] = 0
labels = torch.zeros(8, dtype=torch.long)
batch = {"input_ids": ids.cuda(), "attention_mask": mask.cuda(), "labels": labels.cuda()}
for _ in range(3):
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
