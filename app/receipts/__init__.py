"""Receipts for people and programs: find them, render them, and explain why an item waits."""

from app.receipts.document import fresh_receipt, receipt_document, receipt_path
from app.receipts.service import ReceiptService
from app.receipts.wait_reasons import WaitExplanation, waiting_for

__all__ = [
    "ReceiptService",
    "WaitExplanation",
    "fresh_receipt",
    "receipt_document",
    "receipt_path",
    "waiting_for",
]
