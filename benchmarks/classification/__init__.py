"""What early elimination saves and costs, and both likelihoods' classes over seeds of noise."""
