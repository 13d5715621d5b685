"""What is known of each pixel alone; a network of prediction = residual knows the rest."""
