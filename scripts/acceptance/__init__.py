"""Programs of the GPU acceptance run: ordinary PyTorch and Hugging Face code that knows no hfgpu_magic."""
