"""Whether the parts of an error budget are as large as what they are the error by.

A small measurement is repeated many times. Its z is how far it is off, over the part that its own
budget has for that; of a part that is right z has the standard deviation of Student's law, which
is taken off, so that 1 is right.

* probes and nodes: (mean - reference) / part. The part is from a second solution of each image at
  other nodes by other probes, the reference by the exact trace at many nodes, twice.
* solver: (what four times the steps move the mean by - error) / its standard error. The error is
  the mean of all measurements, to 16 times the steps.
"""
