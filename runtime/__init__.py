"""On the Jetson: cameras, arms, engines, control loop, gate, link, recorder, slots. Never imports torch."""
