"""How far two models agree about geometry: attention maps, pair sets, the Correspondence Alignment Score."""
