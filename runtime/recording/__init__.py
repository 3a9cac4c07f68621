"""From the loop to a data set: control's end of the ring, the recorder process, one episode's writer."""
