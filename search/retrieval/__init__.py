"""What a query is compared with: encoded queries, the gallery of encoded videos, shortlists, moments and notes on the results."""
