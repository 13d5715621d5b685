"""Images sent from the noise down to a time, by relative entropy coding."""
