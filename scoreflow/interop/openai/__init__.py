"""Files of OpenAI's improved-diffusion and guided-diffusion."""
