"""What any image project needs and this one does not define: errors, atomic files, downloads, pixels, pictures."""
