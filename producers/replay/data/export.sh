#!/bin/sh
# Writes telco_customer_churn.csv and its compressed form, which is the one the
# binary embeds, from the data set wa_churn of the R package modeldata. Names
# and levels are those of the public IBM table. Needs Debian or Ubuntu, as root
# if R or the package is not installed yet.
set -eu
cd "$(dirname "$0")"

if ! Rscript --vanilla -e 'library(modeldata)' >/dev/null 2>&1; then
	apt-get install -y --no-install-recommends r-base-core r-cran-modeldata
fi

Rscript --vanilla - telco_customer_churn.csv <<'R'
library(modeldata)
data(wa_churn)
d <- as.data.frame(wa_churn)
yes <- function(x) ifelse(x == 1, "Yes", "No")

# The IBM table leaves TotalCharges empty for customers who were never billed.
never <- is.na(d$total_charges)
stopifnot(all(d$tenure[never] == 0))
d$total_charges[never] <- 0

table <- data.frame(
  customerID       = sprintf("C-%05d", seq_len(nrow(d))),
  gender           = ifelse(d$female == 1, "Female", "Male"),
  SeniorCitizen    = yes(d$senior_citizen),
  Partner          = yes(d$partner),
  Dependents       = yes(d$dependents),
  tenure           = d$tenure,
  PhoneService     = yes(d$phone_service),
  MultipleLines    = d$multiple_lines,
  InternetService  = d$internet_service,
  OnlineSecurity   = d$online_security,
  OnlineBackup     = d$online_backup,
  DeviceProtection = d$device_protection,
  TechSupport      = d$tech_support,
  StreamingTV      = d$streaming_tv,
  StreamingMovies  = d$streaming_movies,
  Contract         = d$contract,
  PaperlessBilling = yes(d$paperless_billing),
  PaymentMethod    = d$payment_method,
  MonthlyCharges   = d$monthly_charges,
  TotalCharges     = d$total_charges,
  Churn            = d$churn
)
stopifnot(!anyNA(table), nrow(table) == 7043, sum(table$Churn == "Yes") == 1869)
write.csv(table, commandArgs(trailingOnly = TRUE)[1], row.names = FALSE, quote = FALSE, eol = "\n")
R

# -n leaves name and time out, so that the same table gives the same bytes.
gzip -9 -n -c telco_customer_churn.csv >telco_customer_churn.csv.gz
