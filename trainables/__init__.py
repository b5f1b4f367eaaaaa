"""What runs in the worker: one trial, one folder. Needs torch alone; Ray is one leaf file (`ray_trainable`)."""
