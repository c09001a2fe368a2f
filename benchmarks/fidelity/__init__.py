"""What each precision keeps of a checkpoint's answers, beside other quantizers."""
