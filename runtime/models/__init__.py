"""What infers on the robot: policy, reward, vision-language model and encoder, as a package's engines."""
