"""What any image project needs, and nothing that is this one's: errors, atomic files, downloads, pixels, pictures."""
