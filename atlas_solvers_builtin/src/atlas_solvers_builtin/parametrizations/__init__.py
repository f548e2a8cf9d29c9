"""What a network's output means, as x̂₀ = c_skip · x + c_out · F(c_in · x, c_noise).

Which pairs are legal:

| | vp-linear | vp-cosine | rectified-flow | edm |
|---|---|---|---|---|
| eps | yes | starts at t_max = 0.997 | starts at t_max = 0.996 | yes |
| x0, v, edm | yes | yes | yes | yes |
| velocity | yes | yes | yes | yes, but F spans four orders of magnitude |
"""
