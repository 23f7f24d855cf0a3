"""A model written as a folder of quantised weights: for the engine hf, for vLLM, or for llama.cpp."""
