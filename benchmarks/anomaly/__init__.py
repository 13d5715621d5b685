"""How well scores of anomaly tell real sets of images from what a network was trained on."""
