"""A small shop that tells Klime what its customers do.

Klime is set up by two environment variables, `KLIME_WRITE_KEY` and `KLIME_ENDPOINT`; the README beside this
file runs the shop against a local collector. No line here knows which server it runs under, or that it forks.
"""

import logging
import os
import re
import secrets

from flask import Flask, abort, redirect, render_template_string, request, session
from werkzeug.wrappers import Response

import klime_mp

PRODUCTS = {"tea": ("Green tea", 4.5), "cup": ("Tea cup", 12.0), "pot": ("Iron pot", 48.0)}
PAGE = """<!doctype html><title>Shop</title><h1>Tea for teams</h1>
{% if company %}<p>Signed in for {{ company }}</p>{% else %}<form method=post action=/signup>
  Email <input name=email required> Company <input name=company required> <button>Sign up</button></form>{% endif %}
{% for sku, (name, price) in products.items() %}<form method=post action="/cart/{{ sku }}">
  <a href="/products/{{ sku }}">{{ name }}</a> {{ price }} <button>Add to cart</button></form>{% endfor %}
<form method=post action=/checkout><button>Order</button></form>"""

logging.basicConfig(level=logging.INFO)  # Klime's troubles are logged, never raised into a request
app = Flask(__name__)
app.secret_key = os.environ.get("SHOP_SECRET_KEY", "only for this example")

# At import: with preload_app once, in gunicorn's master, before it forks. A group_id alone is enough.
klime_mp.track("Shop Started", {"products": len(PRODUCTS)}, group_id="shop")


def track(event: str, **properties: object) -> None:
    """Tell Klime what the signed-in customer did; a visitor nobody knows is not worth an event."""
    if "user_id" in session:
        klime_mp.track(event, properties, user_id=session["user_id"], group_id=session["company_id"])


@app.get("/")
def index() -> str:
    """The shop's only page."""
    return render_template_string(PAGE, company=session.get("company_id"), products=PRODUCTS)


@app.post("/signup")
def signup() -> Response:
    """A new customer: who they are, and which company they belong to."""
    email, company = request.form["email"], request.form["company"]
    session["user_id"] = f"user_{secrets.token_hex(8)}"
    session["company_id"] = re.sub(r"\W+", "-", company.lower())
    klime_mp.identify(session["user_id"], {"email": email})
    klime_mp.group(session["company_id"], {"name": company, "plan": "trial"}, user_id=session["user_id"])
    return redirect("/", code=303)


@app.get("/products/<sku>")
def product(sku: str) -> str:
    """A look at one product."""
    name, price = PRODUCTS.get(sku) or abort(404)
    track("Product Viewed", sku=sku, price=price)
    return f"{name}: {price:.2f}"


@app.post("/cart/<sku>")
def add_to_cart(sku: str) -> Response:
    """One more product in the cart."""
    _ = PRODUCTS.get(sku) or abort(404)
    session["cart"] = [*session.get("cart", []), sku]
    track("Product Added", sku=sku, in_cart=len(session["cart"]))
    return redirect("/", code=303)


@app.post("/checkout")
def checkout() -> str:
    """The order: Klime is told the sum, not the customer's card."""
    cart = session.pop("cart", [])
    total = sum(PRODUCTS[sku][1] for sku in cart)
    track("Order Placed", products=len(cart), total=total)
    return f"Thank you: {len(cart)} products, {total:.2f}"
