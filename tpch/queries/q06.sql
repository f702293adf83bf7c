-- Q6 Forecasting revenue change (TPC-H 2.4.6), DATE = 1994-01-01, DISCOUNT = 0.06, QUANTITY = 24
-- DISCOUNT -/+ 0.01 is written out: engines that read 0.06 + 0.01 as binary floating point get 0.0699...
select
    sum(l_extendedprice * l_discount) as revenue
from
    lineitem
where
    l_shipdate >= date '1994-01-01'
    and l_shipdate < date '1994-01-01' + interval '1' year
    and l_discount between 0.05 and 0.07
    and l_quantity < 24
