"""What the checks of the deployment files share: each module reads one kind of file by a real parser."""
