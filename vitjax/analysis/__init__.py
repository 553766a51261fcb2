"""What goes on inside a model: attention maps, rollout, similarity of layers and heads, and pictures of them."""
