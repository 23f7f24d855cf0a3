"""What a page shows of run folders: read cheaply and often, never written, whatever lies in them."""
