import numpy as np
import torch
from tiny_training import recipe

from lqcompile.training import Distillation
from lqcompile.training.losses import training_loss


def log_softmax(logits):
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def test_smoothed_labels_and_a_twin(seed):
    """The loss against its formula in NumPy."""
    images, labels = torch.randn(5, 4), torch.randint(0, 3, (5,))
    twin = torch.nn.Linear(4, 3)
    logits = torch.randn(5, 3)
    plan = recipe(label_smoothing=0.1, distillation=Distillation(weight=0.3, temperature=2.5))
    found = training_loss(plan, logits, labels, images, twin)

    own, theirs = logits.double().numpy(), twin(images).detach().double().numpy()
    target = 0.9 * np.eye(3)[labels] + 0.1 / 3
    hard = -(target * log_softmax(own)).sum(1).mean()
    wanted = log_softmax(theirs / 2.5)
    soft = (np.exp(wanted) * (wanted - log_softmax(own / 2.5))).sum(1).mean()
    np.testing.assert_allclose(found.item(), 0.7 * hard + 0.3 * 2.5**2 * soft, rtol=1e-5)
    # Without the section the twin does not count.
    hard_only = training_loss(recipe(label_smoothing=0.1), logits, labels, images, twin)
    np.testing.assert_allclose(hard_only.item(), hard, rtol=1e-5)
