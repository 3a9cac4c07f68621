"""Lesser precisions of a package: its frozen trunk in fp16 or INT8, its head as it is.

`graphs` joins and parts graph and weights, `fp16` and `int8` transform a trunk, `chain` runs trunk and head
over recorded observations, `layers` says what each layer costs, `gate` refuses, `build` does it all.

The head stays float32: releases carry float32 tensors that replace its weights by name, and engines refit
them; quantised weights can be neither (FIELD_NOTES 2), and the head is a small part of the time.
"""
