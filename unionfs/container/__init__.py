"""A process, a root made of layers, and the namespaces around it: read lifecycle.py first."""
