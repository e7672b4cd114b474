"""What is asked, and what it comes to: from options and headers to exact counts, before a weight is read."""
