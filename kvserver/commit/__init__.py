"""Marks, the evaluation of requests into effects, and the pipeline that orders, logs and answers them."""
