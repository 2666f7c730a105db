"""Receipts for people and programs: find them, render them, and explain why an item waits."""

from app.receipts.document import (
    fresh_receipt,
    receipt_document,
    receipt_path,
    statement_path,
)
from app.receipts.service import ReceiptService
from app.receipts.wait_reasons import WaitExplanation, explain_all

__all__ = [
    "ReceiptService",
    "WaitExplanation",
    "explain_all",
    "fresh_receipt",
    "receipt_document",
    "receipt_path",
    "statement_path",
]
