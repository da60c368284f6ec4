"""The adaptor to NVIDIA FLARE: the only package that imports nvflare. It carries our bytes and decides nothing."""
