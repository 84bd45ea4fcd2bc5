"""The order database of the support desk: DuckDB in memory, drawn anew for each dialogue."""

import json
import random
import re
from collections.abc import Mapping
from typing import Any

import duckdb

ITEMS = {"spade": 34.5, "rake": 21.0, "hose": 48.9, "shears": 27.25, "wheelbarrow": 112.0, "watering can": 18.4}
COLUMNS = ("order_id", "item", "status", "total", "days_since_delivery", "refunded")


DATABASE = duckdb.connect(":memory:", config={"threads": 1})
"""One for all dialogues: each has a connection and temporary tables of its own, which costs little."""


class Orders:
    """One shop's orders. facts: JSON, a list of orders."""

    def __init__(self, facts: str) -> None:
        self.database = DATABASE.cursor()
        self.database.execute(
            "CREATE TEMP TABLE orders (order_id VARCHAR PRIMARY KEY, item VARCHAR, status VARCHAR, total DOUBLE, "
            "days_since_delivery INTEGER, refunded BOOLEAN)"
        )
        for order in json.loads(facts):
            self.database.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?)", [order[name] for name in COLUMNS])

    @staticmethod
    def draw(seed: int, task: str) -> str:
        """Four orders; those that the customer names are among them, nine times in ten."""
        drawn = random.Random(seed)
        named = [number for number in dict.fromkeys(re.findall(r"\b\d{4}\b", task)) if drawn.random() < 0.9]
        numbers = [*named, *(str(drawn.randint(1000, 9999)) for _ in range(4 - len(named)))]
        orders = []
        for number in dict.fromkeys(numbers):
            item = drawn.choice(sorted(ITEMS))
            status = drawn.choice(("packing", "shipped", "delivered", "delivered"))
            days = drawn.choice((3, 12, 29, 45)) if status == "delivered" else None
            orders.append(dict(zip(COLUMNS, (number, item, status, ITEMS[item], days, False), strict=True)))
        return json.dumps(orders)

    def act(self, action: str, tool: str, arguments: Mapping[str, Any]) -> str:
        """Answer a tool call with a JSON object."""
        order = self.find(str(arguments.get("order_id", "")))
        if order is None:
            return json.dumps({"error": "there is no such order"})
        if tool == "cancel_order":
            if order["status"] != "packing":
                return json.dumps({"error": f"the order is {order['status']}"})
            self.change(order, "status", "cancelled")
        if tool == "refund_order":
            if order["status"] != "delivered" or order["days_since_delivery"] > 30:
                return json.dumps({"error": "only within 30 days after delivery"})
            if order["refunded"]:
                return json.dumps({"error": "refunded before"})
            self.change(order, "refunded", True)
        return json.dumps(self.find(order["order_id"]))

    def find(self, order_id: str) -> dict[str, Any] | None:
        found = self.database.execute("SELECT * FROM orders WHERE order_id = ?", [order_id]).fetchone()
        return dict(zip(COLUMNS, found, strict=True)) if found else None

    def change(self, order: Mapping[str, Any], column: str, value: Any) -> None:
        self.database.execute(f"UPDATE orders SET {column} = ? WHERE order_id = ?", [value, order["order_id"]])
