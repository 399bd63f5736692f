"""What differs between model servers (dialects), and the workers that Seawall runs itself."""
