from sparsedc.cli import main

main()
